from dify_plugin import Tool
from dify_plugin.entities.invoke_message import InvokeMessage

LogStatus = InvokeMessage.LogMessage.LogStatus


class MirrorTool(Tool):
    """Answers with what it is asked for, by the parameter `kind`."""

    def _invoke(self, tool_parameters):
        kind, value = tool_parameters["kind"], tool_parameters.get("value")
        if kind == "text":
            yield self.create_text_message(value)
        elif kind == "json":
            yield self.create_json_message(value)
        elif kind == "link":
            yield self.create_link_message(value)
        elif kind == "image":
            yield self.create_image_message(value)
        elif kind == "blob":
            yield self.create_blob_message(bytes(value), meta={"mime_type": "text/plain"})
        elif kind == "variable":
            yield self.create_variable_message("v", value)
        elif kind == "streamed":
            for piece in value:
                yield self.create_stream_variable_message("v", piece)
        elif kind == "log":
            log = self.create_log_message("step", {"a": 1}, status=LogStatus.START)
            yield log
            yield self.finish_log_message(log, data={"b": 2})
        elif kind == "storage":
            self.session.storage.set("k", value.encode())
            yield self.create_text_message(self.session.storage.get("k").decode())
        elif kind == "chat":
            pieces = self.session.app.chat.invoke(
                app_id="app", query=value, inputs={}, response_mode="streaming"
            )
            for piece in pieces:
                yield self.create_json_message(piece)
        elif kind == "credential":
            yield self.create_text_message(self.runtime.credentials["key"])
        elif kind == "fail":
            yield self.create_text_message("before")
            raise ValueError(value)
