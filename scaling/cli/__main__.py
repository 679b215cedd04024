"""Run the `scaling` command with `python -m scaling.cli`."""

from scaling.cli.app import main

if __name__ == "__main__":
    main()
