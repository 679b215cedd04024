"""`python -m scaling.cli` runs the `scaling` command."""

from scaling.cli.app import main

if __name__ == "__main__":
    main()
