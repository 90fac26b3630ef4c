import os

from gevent import monkey

if os.environ.get("PROBE_REAL_THREADS"):
    # The SDK patches all that blocks when it is imported. Left alone, its threads are the system's.
    monkey.patch_all = lambda *args, **kwargs: True

from dify_plugin import DifyPluginEnv, Plugin  # noqa: E402

plugin = Plugin(DifyPluginEnv())

if __name__ == "__main__":
    plugin.run()
