"""The FUSE shell: pyfuse3 on one side, the FileSystem protocol on the other, and the life of one mount between."""
