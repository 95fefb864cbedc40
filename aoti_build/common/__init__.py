"""What every other part uses: files on disk, locks, JSON records, digests, and what the host lets a
process use."""
