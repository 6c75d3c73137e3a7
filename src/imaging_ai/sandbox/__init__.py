"""The process that runs models, and the walls around it: no network, few files, bounded memory, no other process.

client       the privileged side: starts the process, gives it a job, takes its answer, ends it
snapshot     the bundle that is run: copied, and verified as it is copied
series       the files of a series, handed over in memory
messages     what the two sides say to each other
child        the process itself; inside  what it does for a job
confine      the walls, one by one: namespaces, landlock, seccomp
"""
