"""`python -m scaleexp`."""

from scaleexp.cli import main

if __name__ == "__main__":
    main()
