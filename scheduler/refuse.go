package scheduler

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/internal/size"
)

// PlacementError says why no cell was found.
type PlacementError struct {
	// Text is Cloud Foundry's: "insufficient resources: memory", "found no compatible
	// cell …", "unable to communicate to compatible cells".
	Text string `json:"text"`
	// Refused tells how many cells each rule refused, most first.
	Refused []Refusal `json:"refused,omitempty"`
	// Lacks tells of what there is not enough on any cell that was let through so far, how much was asked for.
	Lacks []Lack `json:"lacks,omitempty"`

	limited bool // by Config.StartingLimit
}

// Refusal counts the cells that a rule refused.
type Refusal struct {
	Rule  string `json:"rule"`
	Cells int    `json:"cells"`
}

// Lack is what a work asked for in vain.
type Lack struct {
	Name    string `json:"name"` // "memory" or "disk"
	Asked   int64  `json:"asked"`
	Largest int64  `json:"largest"` // what the largest of the cells has, with all that it runs; bytes
}

// Error begins with Text and goes on with the reasons. It changes only if the cells, or the rules that refused
// on them, do.
func (e *PlacementError) Error() string {
	if len(e.Refused) == 0 && e.Text == textSilent {
		return e.Text + " (there are no cells)"
	}
	if len(e.Refused) == 0 {
		return e.Text
	}
	parts := make([]string, len(e.Refused))
	for i, r := range e.Refused {
		plural := "s"
		if r.Cells == 1 {
			plural = ""
		}
		parts[i] = fmt.Sprintf("%d cell%s: %s", r.Cells, plural, r.Rule)
	}
	for _, l := range e.Lacks {
		parts = append(parts, fmt.Sprintf("%s of %s asked for, a cell has at most %s", size.Text(l.Asked), l.Name, size.Text(l.Largest)))
	}
	return e.Text + " (" + strings.Join(parts, "; ") + ")"
}

// StagingReason is what a staging without a place is called, in Cloud Foundry's words; package
// staging asks for it.
func (e *PlacementError) StagingReason() string {
	switch {
	case strings.HasPrefix(e.Text, textInsufficient), strings.HasPrefix(e.Text, textInFlight):
		return "InsufficientResources"
	case strings.HasPrefix(e.Text, textIncompatible):
		return "NoCompatibleCell"
	}
	return "CellCommunicationError"
}

// The texts of a PlacementError, which are Cloud Foundry's; details may follow a ":" or a word.
const (
	textSilent       = "unable to communicate to compatible cells"
	textIncompatible = "found no compatible cell"
	textInsufficient = "insufficient resources"
	textInFlight     = "waiting to start instance: reached in-flight start limit"
)

// What a cell may lack.
const (
	lackContainers = 1 << iota
	lackDisk
	lackMemory
)

var lackNames = []string{"containers", "disk", "memory"} // by bit, and in the order of Cloud Foundry's text

func lackText(lack int) string {
	var names []string
	for i, n := range lackNames {
		if lack&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ", ")
}

func lackBits(names string) int {
	bits := 0
	for _, n := range strings.Split(names, ", ") {
		if i := slices.Index(lackNames, n); i >= 0 {
			bits |= 1 << i
		}
	}
	return bits
}

func lacks(s cell.Spec, c *CellView) int {
	lack := 0
	if c.Total.Memory > 0 && c.Used.Memory+s.Memory > c.Total.Memory {
		lack |= lackMemory
	}
	if c.Total.Disk > 0 && c.Used.Disk+s.Disk > c.Total.Disk {
		lack |= lackDisk
	}
	if c.Total.Containers > 0 && c.Used.Containers >= c.Total.Containers {
		lack |= lackContainers
	}
	return lack
}

// The rules in their order; of the rules that refused, the last gives the text.
const (
	ruleAnswers = iota
	ruleStack
	ruleTags
	ruleIsolation
	ruleResources
)

// refusal says which rule refuses a work on a cell, and in which words; false: none does.
func refusal(w Want, c *CellView) (rule int, text string, refused bool) {
	lack := lacks(w.Spec, c)
	why, avoided := w.Avoid[c.ID]
	switch {
	case !c.Reachable:
		return ruleAnswers, "does not answer", true
	case c.Draining:
		return ruleAnswers, "is draining", true
	case w.Spec.Image != "" && !c.Total.Images:
		return ruleStack, "runs no images", true
	case !hasStack(w.Spec, c):
		return ruleStack, fmt.Sprintf("has no stack %q", w.Spec.Stack), true
	case !tagged(w.Spec.Tags, c):
		return ruleTags, "has the tags " + tagText(c), true
	case !isolates(w.Spec.Isolation, c.Total.Isolation):
		return ruleIsolation, fmt.Sprintf("isolates by %q, not by %q", c.Total.Isolation, w.Spec.Isolation), true
	case lack != 0:
		if never := lacks(w.Spec, &CellView{Total: c.Total}); never != 0 {
			return ruleResources, "lacks " + lackText(never) + ", even when empty", true
		}
		return ruleResources, "lacks " + lackText(lack), true
	case avoided:
		return ruleResources, "refused: " + why, true
	}
	return 0, "", false
}

func tagText(c *CellView) string {
	parts := slices.Clone(c.Tags)
	for _, t := range c.OptionalTags {
		parts = append(parts, t+" (optional)")
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// wantTags writes wanted tags as Cloud Foundry's errors do.
func wantTags(tags []string) string {
	quoted := make([]string, len(tags))
	for i, t := range tags {
		quoted[i] = strconv.Quote(t)
	}
	switch n := len(quoted); n {
	case 0:
		return "no placement tags"
	case 1:
		return "placement tag " + quoted[0]
	default:
		return "placement tags " + strings.Join(quoted[:n-1], ", ") + " and " + quoted[n-1]
	}
}

// refuse finds the words for why no cell will do. The rule that most nearly let a cell
// pass gives the text.
func refuse(w Want, v *View) *PlacementError {
	count := map[string]int{}
	furthest, common := ruleAnswers, ^0
	var most cell.Resources
	for _, c := range v.Cells {
		rule, text, refused := refusal(w, c)
		if !refused {
			continue
		}
		count[text]++
		furthest = max(furthest, rule)
		if rule != ruleResources {
			continue
		}
		if lack := lacks(w.Spec, c); lack != 0 {
			common &= lack
			most.Memory, most.Disk = max(most.Memory, c.Total.Memory), max(most.Disk, c.Total.Disk)
			continue
		}
		named, ok := strings.CutPrefix(w.Avoid[c.ID], textInsufficient+": ")
		if !ok {
			named = ""
		}
		common &= lackBits(named)
	}
	e := &PlacementError{}
	switch furthest {
	case ruleAnswers:
		e.Text = textSilent
	case ruleStack:
		e.Text = textIncompatible + " for required rootfs"
	case ruleTags:
		e.Text = textIncompatible + " with " + wantTags(w.Spec.Tags)
	case ruleIsolation:
		e.Text = fmt.Sprintf("%s with isolation %q", textIncompatible, w.Spec.Isolation)
	case ruleResources:
		e.Text = textInsufficient
		if names := lackText(common); names != "" {
			e.Text += ": " + names
		}
		if common&lackDisk != 0 && most.Disk > 0 {
			e.Lacks = append(e.Lacks, Lack{"disk", w.Spec.Disk, most.Disk})
		}
		if common&lackMemory != 0 && most.Memory > 0 {
			e.Lacks = append(e.Lacks, Lack{"memory", w.Spec.Memory, most.Memory})
		}
	}
	e.Refused = counted(count)
	return e
}

func counted(count map[string]int) []Refusal {
	var all []Refusal
	for rule, n := range count {
		all = append(all, Refusal{Rule: rule, Cells: n})
	}
	sort.Slice(all, func(i, j int) bool {
		if all[i].Cells != all[j].Cells {
			return all[i].Cells > all[j].Cells
		}
		return all[i].Rule < all[j].Rule
	})
	return all
}
