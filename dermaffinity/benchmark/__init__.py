"""Many methods on one split, run as resumable jobs and compared with what the data can show."""
