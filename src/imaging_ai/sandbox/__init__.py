"""The processes that run models, and the walls around them: no network, few files, bounded memory, no other process.

client       the privileged side: starts a process for each model, gives it jobs, takes its answers, ends it
running      one such process: what it is told, what it says, how it ended
forked       the way to the zygote, and to what it forks
zygote       loads the libraries once, and forks; guardian  stands between, watches (watch) and ends
snapshot     the bundle that is run: copied, and verified as it is copied
series       the files of a series, handed over in memory; spool  the objects that are handed back
messages     what the two sides say to each other
child        the process itself; serving, inside  what it does for a job
confine      the walls, one by one: namespaces, landlock, seccomp
"""
