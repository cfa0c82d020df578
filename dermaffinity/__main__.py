"""``python -m dermaffinity`` is ``dermaffinity``; torchrun needs it."""

from dermaffinity.cli import main

if __name__ == "__main__":
    main()
