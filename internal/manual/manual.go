// Package manual makes the manual pages of a program from its commands.
package manual

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Page is a manual page beside those of the commands. Name is that of its file, as evpnd.yaml.5; Markdown is its text as
// md2man(1) takes it.
type Page struct{ Name, Markdown string }

// Command is a hidden subcommand for those who build packages: it writes a page for each command of its program into a
// folder, and pages. Section is that of the manual, 1 or 8. The date of the pages is SOURCE_DATE_EPOCH when that is set.
func Command(section string, pages ...Page) *cobra.Command {
	return &cobra.Command{
		Use:    "man FOLDER",
		Short:  "Write manual pages into a folder",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return write(cmd.Root(), section, args[0], pages)
		},
	}
}

func write(root *cobra.Command, section, folder string, pages []Page) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("make folder of manual pages: %w", err)
	}
	root.DisableAutoGenTag = true
	for _, sub := range root.Commands() {
		sub.Hidden = sub.Hidden || sub.Name() == "completion" // the packages bring completions along
	}
	header := &doc.GenManHeader{Section: section, Source: "evpnd", Manual: "evpnd"}
	if err := doc.GenManTree(root, header, folder); err != nil {
		return fmt.Errorf("write manual pages of %s: %w", root.Name(), err)
	}
	for _, p := range pages {
		if err := os.WriteFile(filepath.Join(folder, p.Name), md2man.Render([]byte(p.Markdown)), 0o644); err != nil {
			return fmt.Errorf("write manual page: %w", err)
		}
	}
	return nil
}
