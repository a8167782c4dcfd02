"""The classes that images are sorted into: one constant, which archives, networks and tables use.

To sort images into other classes, such as letters, change CLASSES here and nothing else.
"""

CLASSES = "0123456789"  # label -> what tables and predictions call it
