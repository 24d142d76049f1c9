"""A real notebook kernel, for what only shows there: `%load_ext`, how an error looks, what goes to stderr."""
from typing import NamedTuple

from jupyter_client.manager import start_new_kernel


class Ran(NamedTuple):
    """What a cell did: everything it printed, and the error it ended with, as a notebook shows it."""

    stdout: str
    stderr: str
    error: str       # "ValueError: message", or empty
    traceback: str


class Kernel:
    """Runs cells one after the other; `kernel("a = 1", "print(a)")` is one cell."""

    def __init__(self):
        self.manager, self.client = start_new_kernel(kernel_name="python3")

    def run(self, *lines: str) -> Ran:
        printed = {"stdout": "", "stderr": ""}

        def hear(message):
            if message["msg_type"] == "stream":
                printed[message["content"]["name"]] += message["content"]["text"]

        reply = self.client.execute_interactive("\n".join(lines), timeout=60, output_hook=hear)["content"]
        failed = reply["status"] != "ok"
        return Ran(**printed, error=f"{reply['ename']}: {reply['evalue']}" if failed else "",
                   traceback="\n".join(reply["traceback"]) if failed else "")

    def __call__(self, *lines: str) -> str:
        """What a cell prints, to stderr too, or the error it ends with."""
        ran = self.run(*lines)
        return ran.error or ran.stdout + ran.stderr

    def stop(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
