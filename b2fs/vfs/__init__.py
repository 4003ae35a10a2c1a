"""The inode-level filesystem, free of pyfuse3 types: lookups, permissions, handles, renames, xattrs."""
