package router_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/router"
	"github.com/dewpoint-go/dewpoint/router/routertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRouter(t *testing.T) {
	t.Parallel()
	routertest.Run(t, func(_ *testing.T, c router.Config) routertest.Handler { return router.New(c) })
}
