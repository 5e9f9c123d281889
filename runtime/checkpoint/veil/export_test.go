package veil

// OnThread is onThread, for tests.
var OnThread = onThread
