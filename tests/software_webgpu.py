"""How a browser gets a WebGPU that is a program, and plays a graphics processor: right, and slow."""

from mobileclip_keras.converters.deploy.web import browser

FLAGS = (
    *(flag for flag in browser.FLAGS if flag != "--disable-gpu"),
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
)
