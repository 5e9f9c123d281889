// Command man writes snapctl's manual pages, from the commands themselves, so that
// they are never stale:
//
//	man DIR
//
// It is no command of snapctl, which would compile the expressions of a Markdown
// parser each time that it is started: half of its start.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra/doc"

	"github.com/snapctl/snapctl/cmd/internal/cli"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/version"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "man: error: want one directory")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "man: error:", err)
		os.Exit(1)
	}
}

// write writes the pages into a directory, which is made if need be. Their date is
// today, or SOURCE_DATE_EPOCH.
func write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	root := cli.Commands(session.System(version.Version))
	root.DisableAutoGenTag = true // its date would differ with every build
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "snapctl", Manual: "snapctl"}, dir); err != nil {
		return fmt.Errorf("write manual pages: %w", err)
	}
	return nil
}
