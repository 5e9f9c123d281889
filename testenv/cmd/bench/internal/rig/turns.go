package rig

import (
	"slices"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
)

// Rates has two sides of a comparison take turns, each beginning as often as the
// other, and returns the rate of both. The quarter of the turns that were disturbed
// least counts: what differs is far less than what else goes on in a machine.
func Rates(n int, ours, other func() (float64, error)) (float64, float64, error) {
	var values [2][]float64
	sides := []func() (float64, error){ours, other}
	order := []int{0, 1}
	for range n {
		for _, i := range order {
			v, err := sides[i]()
			if err != nil {
				return 0, 0, err
			}
			values[i] = append(values[i], v)
		}
		slices.Reverse(order)
	}
	return report.Percentile(values[0], 75), report.Percentile(values[1], 75), nil
}
