"""The ledger of jobs and the doorbell that tells workers of them (design promise 2)."""
