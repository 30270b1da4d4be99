package state_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/dewpoint-go/dewpoint/state"
)

type city struct {
	Name    string `json:"name"`
	Country string `json:"country"`
	Code    string `json:"code"`
}

var cities = state.NewTable("cities", func(c city) string { return c.Name },
	state.Index[city]{Name: "country", Keys: func(c city) []string { return []string{c.Country} }},
	state.Index[city]{Name: "code", Unique: true, Keys: func(c city) []string { return []string{c.Code} }})

func Example() {
	ctx := context.Background()
	db, err := state.Open(ctx, state.Config{Journal: state.NewMemory()}, cities)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()

	err = db.Update(ctx, func(tx *state.Tx) error {
		return errors.Join(
			cities.Put(tx, city{"Lyon", "FR", "LYS"}),
			cities.Put(tx, city{"Kyoto", "JP", "UKY"}),
			cities.Put(tx, city{"Brest", "FR", "BES"}))
	})
	fmt.Println("durable and visible:", err == nil)
	for c := range cities.By(db.View(), "country", "FR") {
		fmt.Println(c.Name)
	}
	// Output:
	// durable and visible: true
	// Brest
	// Lyon
}

func ExampleConflictError() {
	ctx := context.Background()
	db, _ := state.Open(ctx, state.Config{}, cities)
	defer db.Close()
	err := db.Update(ctx, func(tx *state.Tx) error {
		_ = cities.Put(tx, city{"Lyon", "FR", "LYS"})
		return cities.Put(tx, city{"Lyss", "CH", "LYS"})
	})
	var conflict *state.ConflictError
	fmt.Println(errors.As(err, &conflict), conflict.Key)
	fmt.Println(err)
	// Output:
	// true Lyon
	// state: cities: code "LYS" is taken by "Lyon"
}

func ExampleDB_Changed() {
	ctx := context.Background()
	db, _ := state.Open(ctx, state.Config{}, cities)
	defer db.Close()

	changed := db.Changed(cities)
	rev := db.View().Rev()
	go func() {
		_ = db.Update(ctx, func(tx *state.Tx) error { return cities.Put(tx, city{"Lyon", "FR", "LYS"}) })
	}()
	<-changed
	list, _ := db.Changes(rev, cities)
	for _, c := range list {
		fmt.Println(c.Rev, c.Key, c.Old, c.New.(city).Code)
	}
	// Output:
	// 1 Lyon <nil> LYS
}
