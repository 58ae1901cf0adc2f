"""What may cost money: the ledger of calls, the limiter, the client, batches, tokens."""
