package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func newMan(s *session) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages into a directory",
		Hidden: true, // for packagers
		Long: `Write the manual pages into a directory, which is made if need be. Their date is
today, or SOURCE_DATE_EPOCH.`,
		Example:     "  snapctl man /usr/local/share/man/man1",
		Args:        exactly("DIR"),
		Annotations: raw(),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := s.absolute(args[0])
			if err != nil {
				return err
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("make directory: %w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // its date would differ with every build
			if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "snapctl", Manual: "snapctl"}, dir); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			return nil
		},
	}
}
