package forwarding_test

import (
	"os"
	"testing"

	"github.com/snapctl/snapctl/testenv/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }
