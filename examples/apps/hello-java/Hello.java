import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.regex.Pattern;

/** A small web app to push: it says who and which instance it is. */
public class Hello {
    public static void main(String[] args) throws Exception {
        Map<String, String> env = System.getenv();
        // The JDK reads no JSON, and one name is all that is wanted.
        var found = Pattern.compile("\"application_name\":\"([^\"]*)\"").matcher(env.getOrDefault("VCAP_APPLICATION", ""));
        String name = found.find() ? found.group(1) : "hello-java";
        String index = env.getOrDefault("CF_INSTANCE_INDEX", "0");
        int port = Integer.parseInt(env.getOrDefault("PORT", "8080"));

        HttpServer server = HttpServer.create(new InetSocketAddress(port), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/crash", request -> {
            System.err.println("asked to crash");
            Runtime.getRuntime().halt(1);
        });
        server.createContext("/", request -> {
            System.out.println(request.getRequestMethod() + " " + request.getRequestURI());
            byte[] body = ("Hello from " + name + ", instance " + index + "\n").getBytes(StandardCharsets.UTF_8);
            request.getResponseHeaders().set("Content-Type", "text/plain; charset=utf-8");
            request.sendResponseHeaders(200, body.length);
            try (var out = request.getResponseBody()) {
                out.write(body);
            }
        });
        // SIGTERM runs this: what is under way has a second, which the JDK waits for in any case.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            server.stop(1);
            System.out.println("stopped");
        }));
        server.start();
        System.out.println(name + ", instance " + index + ", listens on " + port);
    }
}
