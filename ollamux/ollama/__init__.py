"""What is specific to ollama: its environment, its log, its API, its store. Pure, but for reading the store."""
