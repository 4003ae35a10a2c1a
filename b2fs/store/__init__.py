"""Object stores: the ObjectStore protocol and what implements it."""
