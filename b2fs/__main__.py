"""`python -m b2fs` is the same as `b2fs`."""

from b2fs.cli.main import main

if __name__ == "__main__":
    main()
