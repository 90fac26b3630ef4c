from dify_plugin import Endpoint
from werkzeug import Request, Response


class BoatsEndpoint(Endpoint):
    def _invoke(self, r: Request, values, settings) -> Response:
        text = f"{r.method} {values['id']} {settings.get('colour')} {r.get_data().decode()}"
        return Response(text, status=201, content_type="text/plain")
