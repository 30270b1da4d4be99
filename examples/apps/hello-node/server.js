// A small web app to push: it says who and which instance it is.
const http = require('http');

const name = JSON.parse(process.env.VCAP_APPLICATION || '{}').application_name || 'hello-node';
const index = process.env.CF_INSTANCE_INDEX || '0';
const port = Number(process.env.PORT || 8080);

const server = http.createServer((req, res) => {
  console.log(`${req.method} ${req.url}`);
  if (req.url === '/crash') {
    console.error('asked to crash');
    process.exit(1);
  }
  res.setHeader('Content-Type', 'text/plain; charset=utf-8');
  res.end(`Hello from ${name}, instance ${index}\n`);
});
server.listen(port, () => console.log(`${name}, instance ${index}, listens on ${port}`));
process.on('SIGTERM', () => server.close(() => {
  console.log('stopped');
  process.exit(0);
}));
