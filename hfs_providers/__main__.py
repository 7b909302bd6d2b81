"""`python -m hfs_providers`: the same as the script `hfs-providers`."""

from hfs_providers.cli import main

main()
