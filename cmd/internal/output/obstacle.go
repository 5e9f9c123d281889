package output

import (
	"fmt"
	"slices"
	"strings"

	"github.com/snapctl/snapctl/runtime/api"
)

// Obstacle is what keeps a saved app from coming back now.
type Obstacle struct {
	Path   string `json:"path,omitempty"` // of a file, as the app knows it
	Reason string `json:"reason"`
	Remedy string `json:"remedy,omitempty"`
}

// obstacles reads the API's messages. There are none mostly.
func obstacles(all []*api.Obstacle) []Obstacle {
	if len(all) == 0 {
		return nil
	}
	return convert(all, func(o *api.Obstacle) Obstacle {
		return Obstacle{Path: o.GetPath(), Reason: o.GetReason(), Remedy: o.GetRemedy()}
	})
}

// String is the obstacle for people.
func (o Obstacle) String() string {
	if o.Remedy == "" {
		return o.Reason
	}
	return o.Reason + ": " + o.Remedy
}

// obstacleText is all obstacles for people.
func obstacleText(all []Obstacle) string { return strings.Join(convert(all, Obstacle.String), "; ") }

// warn adds a column to a table, of what would not start and the first reason, if there is
// anything that would not. The last column stays the last.
func warn(head []string, rows [][]string, obstacles [][]Obstacle) ([]string, [][]string) {
	if !slices.ContainsFunc(obstacles, func(all []Obstacle) bool { return len(all) > 0 }) {
		return head, rows
	}
	at := len(head) - 1
	head = slices.Insert(head, at, "WOULD NOT START")
	for i, all := range obstacles {
		rows[i] = slices.Insert(rows[i], at, obstacleCell(all))
	}
	return head, rows
}

// obstacleCell names the first of the obstacles in a few words.
func obstacleCell(all []Obstacle) string {
	if len(all) == 0 {
		return ""
	}
	text := all[0].Path
	if text == "" {
		text = all[0].Reason
	}
	text = shorten(text, 50)
	if more := len(all) - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
