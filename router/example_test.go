package router_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/dewpoint-go/dewpoint/router"
)

func Example() {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "instance %s says hello", r.Header.Get("X-CF-InstanceIndex"))
	}))
	defer app.Close()

	r := router.New(router.Config{})
	r.SetTable(router.NewTable([]router.Route{{
		Host: "shop.example.com", Path: "/cart",
		Backends: []router.Backend{{App: "shop", Instance: "shop-0", Addr: strings.TrimPrefix(app.URL, "http://")}},
	}}))
	defer r.SetTable(nil) // closes the connections
	front := httptest.NewServer(r)
	defer front.Close()

	for _, path := range []string{"/cart/7", "/"} {
		req, _ := http.NewRequest(http.MethodGet, front.URL+path, nil)
		req.Host = "shop.example.com"
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		fmt.Println(res.StatusCode, strings.TrimSpace(string(body)))
	}
	http.DefaultClient.CloseIdleConnections()
	// Output:
	// 200 instance 0 says hello
	// 404 404 Not Found: Requested route ('shop.example.com') does not exist.
}
