"""The database: engine, transactions, tables, migrations. The ledger of everything that must survive."""
