"""Pictures with captions as people keep them: tables, folders, tar shards, Hugging Face datasets."""
