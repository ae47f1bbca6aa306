package store_test

const crashDirs = "SHARDSTREAM_TEST_CRASH_DIRS"

func putUntilKilled(dirs []string) {}
