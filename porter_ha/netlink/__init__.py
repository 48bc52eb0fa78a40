"""The kernel of a node: our routing table, the rule that leads to it, and the guard in nftables."""
