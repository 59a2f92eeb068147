"""An audit's suspects looked at by a person: a page to keep, drop or re-pair them, and the copy that follows."""
