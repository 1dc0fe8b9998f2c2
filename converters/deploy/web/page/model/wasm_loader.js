/**
 * What LiteRT.js starts its compiled code with, in the place of @litertjs/wasm-utils. That loads a classic script, which a
 * worker of modules cannot. Here the script is imported as a module; it offers what it holds as AMD modules do.
 */

const NEWS = /^\s*(INFO|[IW]\d{4} )/; // no errors: what it found, and what it set up
const factories = new Map();

/**
 * @param {new (module: object) => object} Library
 * @param {string} script the address of a script beside its compiled code
 */
export async function createWasmLib(Library, script) {
  const start = await factoryOf(script);
  const module = await start({
    locateFile: (name) => new URL(name, script).href,
    mainScriptUrlOrBlob: script, // what its threads run
    print: tell,
    printErr: tell,
  });
  return new Library(module);
}

async function factoryOf(script) {
  if (!factories.has(script)) {
    const before = globalThis.define;
    globalThis.define = (_, give) => factories.set(script, give());
    globalThis.define.amd = {};
    try {
      await import(script);
    } finally {
      globalThis.define = before;
    }
  }
  return factories.get(script);
}

function tell(line) {
  if (!NEWS.test(line)) {
    console.warn(line);
  }
}
