"""What the tests ask for, by the query: how many threads call the app back, how often each, and
whether that is to be done before the answer, or goes on after it. Each call's outcome is a line of
the file `out`, which is renamed to its name when all are done."""

import json
import os
import threading
import time

from dify_plugin import Endpoint
from werkzeug import Request, Response


class ProbeEndpoint(Endpoint):
    def _invoke(self, r: Request, values, settings) -> Response:
        mode = r.args.get("mode", "echo")
        if mode == "fail":
            raise RuntimeError("on purpose")
        if mode == "echo":
            return Response(r.get_data() or r.query_string, status=200, content_type="text/plain")
        if mode == "stream":
            pieces = (f"piece {n};" for n in range(int(r.args["rows"])))
            return Response(pieces, status=200, content_type="text/plain")
        threads, rows = int(r.args["threads"]), int(r.args["rows"])
        outcomes = []

        def call(thread):
            # After the answer: when the test has seen the session's end.
            while mode == "after" and not os.path.exists(r.args["out"] + ".go"):
                time.sleep(0.01)
            for row in range(rows):
                tag = f"t{thread}-{row}"
                begun = time.perf_counter()
                try:
                    answer = [
                        piece["tag"]
                        for piece in self.session.app.chat.invoke(
                            app_id="app", query=tag, inputs={}, response_mode="streaming"
                        )
                    ]
                    problem = None if answer == [tag, tag] else f"answered {answer}"
                except Exception as error:
                    problem = f"{error}"
                took = time.perf_counter() - begun
                outcomes.append({"tag": tag, "problem": problem, "seconds": took})

        workers = [threading.Thread(target=call, args=(n,)) for n in range(threads)]
        begun = time.perf_counter()
        for worker in workers:
            worker.start()

        def finish():
            for worker in workers:
                worker.join()
            with open(r.args["out"] + ".part", "w") as out:
                json.dump({"seconds": time.perf_counter() - begun, "outcomes": outcomes}, out)
            os.rename(r.args["out"] + ".part", r.args["out"])

        if mode == "before":
            finish()
        else:
            threading.Thread(target=finish).start()
        return Response("done", status=200, content_type="text/plain")
