from dify_plugin import Tool


class CountTool(Tool):
    def _invoke(self, tool_parameters):
        to = int(tool_parameters["to"])
        if to < 0:
            raise ValueError("to count down is another tool")
        for n in range(to):
            yield self.create_text_message(str(n))
