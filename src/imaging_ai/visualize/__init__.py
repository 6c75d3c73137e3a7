"""The visualizer: segmentations and maps over the series that they were made of, as PNG or moving GIF.

reading   SEG and Parametric Map files, ours or anybody's, onto the grid of the series
layouts   key slices, a montage, three planes
files     a series from a folder, pictures into a file
"""
