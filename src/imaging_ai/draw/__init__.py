"""Drawing: planes of a volume as pictures, what was found over them, and sheets of both. Pure: Pillow, NumPy.

planes  which two axes of a grid are seen     panels  one plane windowed and scaled, with outlines, heat and letters
heat    colours of a map, and its bar         sheets  panels beside each other under a title, and a legend below
"""
