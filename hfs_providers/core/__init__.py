"""The provider-independent core; import its public names from `hfs_providers`."""
