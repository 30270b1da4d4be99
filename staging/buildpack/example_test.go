package buildpack_test

import (
	"fmt"

	"github.com/dewpoint-go/dewpoint/staging/buildpack"
)

func ExampleCatalogue() {
	var c buildpack.Catalogue
	for _, e := range []buildpack.Entry{
		{Name: "go", Location: "dir:/opt/buildpacks/go"},
		{Name: "staticfile", Location: "https://example.com/staticfile-buildpack-v1.6.0.zip"},
		{Name: "ours", Location: "https://git.example.com/ours.git#v2", Position: 1},
	} {
		if err := c.Add(e); err != nil {
			fmt.Println(err)
		}
	}
	for _, e := range c.List() {
		fmt.Println(e.Position, e.Name)
	}
	// Output:
	// 1 ours
	// 2 go
	// 3 staticfile
}
