"""What the Workbench is made of: the house it wires, runs that go on, and the small objects with verbs of their own."""
