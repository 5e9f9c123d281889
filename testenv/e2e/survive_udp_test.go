package e2e

import (
	"testing"
)

// TestUDPSurvives has datagrams wait in queues inside the app; those of real
// clients are in TestAsyncioServesThroughHibernation.
func TestUDPSurvives(t *testing.T) {
	survive(t, map[string]trial{"udp": {}})
}
