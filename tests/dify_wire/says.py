"""What Dify's own SDK says on the wire: its handlers and its reverse calls, with nothing but the stream
taken away. Reads a line of JSON, answers with a line of JSON."""

import io
import json
import sys
from contextlib import contextmanager
from decimal import Decimal
from types import SimpleNamespace

from werkzeug import Response

from dify_plugin.config.config import DifyPluginEnv, InstallMethod
from dify_plugin.core.entities.invocation import InvokeType
from dify_plugin.core.entities.plugin import request as requests
from dify_plugin.core.plugin_executor import PluginExecutor
from dify_plugin.core.runtime import Session
from dify_plugin.core.server.__base.response_writer import ResponseWriter
from dify_plugin.entities import ParameterOption, I18nObject
from dify_plugin.entities.datasource import (
    DatasourceGetPagesResponse,
    OnlineDocumentInfo,
    OnlineDocumentPage,
    OnlineDriveBrowseFilesResponse,
    OnlineDriveFile,
    OnlineDriveFileBucket,
    WebSiteInfo,
    WebSiteInfoDetail,
)
from dify_plugin.entities.model import EmbeddingInputType
from dify_plugin.entities.model.llm import (
    LLMModelConfig,
    LLMResultChunk,
    LLMResultChunkDelta,
    LLMUsage,
)
from dify_plugin.entities.model.message import (
    AssistantPromptMessage,
    PromptMessageTool,
    SystemPromptMessage,
    ToolPromptMessage,
    UserPromptMessage,
)
from dify_plugin.entities.model.moderation import ModerationModelConfig
from dify_plugin.entities.model.rerank import (
    MultiModalRerankModelConfig,
    MultiModalRerankResult,
    RerankDocument,
    RerankModelConfig,
    RerankResult,
)
from dify_plugin.entities.model.speech2text import Speech2TextModelConfig
from dify_plugin.entities.model.text_embedding import (
    EmbeddingUsage,
    MultiModalContent,
    MultiModalEmbeddingModelConfig,
    MultiModalEmbeddingResult,
    TextEmbeddingModelConfig,
    TextEmbeddingResult,
)
from dify_plugin.entities.model.tts import TTSModelConfig
from dify_plugin.entities.oauth import OAuthCredentials
from dify_plugin.entities.tool import ToolProviderType
from dify_plugin.entities.trigger import (
    EventDispatch,
    Subscription,
    UnsubscribeResult,
    Variables,
)
from dify_plugin.entities.workflow_node import ClassConfig, ModelConfig, ParameterConfig
from dify_plugin.errors.model import CredentialsValidateFailedError, InvokeRateLimitError
from dify_plugin.errors.trigger import EventIgnoreError
from dify_plugin.interfaces.agent import AgentStrategy
from dify_plugin.interfaces.datasource import DatasourceProvider
from dify_plugin.interfaces.datasource.online_document import OnlineDocumentDatasource
from dify_plugin.interfaces.datasource.online_drive import OnlineDriveDatasource
from dify_plugin.interfaces.datasource.website import WebsiteCrawlDatasource
from dify_plugin.interfaces.model.large_language_model import LargeLanguageModel
from dify_plugin.interfaces.model.moderation_model import ModerationModel
from dify_plugin.interfaces.model.rerank_model import RerankModel
from dify_plugin.interfaces.model.speech2text_model import Speech2TextModel
from dify_plugin.interfaces.model.text_embedding_model import TextEmbeddingModel
from dify_plugin.interfaces.model.tts_model import TTSModel
from dify_plugin.invocations.app.fetch_app import FetchAppInvocation

# ---- the stream -----------------------------------------------------------------------------------


class Writer(ResponseWriter):
    def __init__(self):
        self.said = []

    def write(self, data):
        if data.strip():
            self.said.append(json.loads(data)["data"])

    def done(self):
        pass


class Reader:
    def __init__(self, answers):
        self.answers = answers

    @contextmanager
    def read(self, _filter):
        data = {"backwards_request_id": "", "message": ""}
        chunks = [SimpleNamespace(data={**data, "event": "response", "data": a}) for a in self.answers]
        chunks.append(SimpleNamespace(data={**data, "event": "end", "data": None}))
        yield SimpleNamespace(read=lambda timeout_for_round: iter(chunks))


def session(asked, writer):
    return Session(
        session_id="s",
        executor=None,
        reader=Reader(asked.get("answers", [])),
        writer=writer,
        install_method=InstallMethod.Local,
        app_id=asked.get("app_id"),
        context=asked.get("context"),
    )


# ---- reverse calls ----------------------------------------------------------------------------------

OF = {"provider": "p", "model": "m"}
LLM = LLMModelConfig(**OF, mode="chat", completion_params={"temperature": 0.5})
NODE = ModelConfig(provider="p", name="m", completion_params={"temperature": 0.5})


def messages():
    call = AssistantPromptMessage.ToolCall(
        id="c1",
        type="function",
        function=AssistantPromptMessage.ToolCall.ToolCallFunction(name="boats", arguments='{"a":1}'),
    )
    return [
        SystemPromptMessage(content="Be brief."),
        UserPromptMessage(content="Which boat?"),
        AssistantPromptMessage(content="", tool_calls=[call]),
        ToolPromptMessage(content="tide", tool_call_id="c1"),
    ]


TOOL = PromptMessageTool(name="boats", description="Lists boats", parameters={"type": "object"})


def documents():
    return [
        MultiModalContent(content="a boat", content_type="text"),
        MultiModalContent(content="aGk=", content_type="image"),
    ]


CALLS = {
    "llm": lambda s: list(s.model.llm.invoke(LLM, messages(), [TOOL], ["\n"], stream=True)),
    "llm_plain": lambda s: list(
        s.model.llm.invoke(LLM, [UserPromptMessage(content="hi")], stream=True)
    ),
    "structured": lambda s: list(
        s.model.llm_structured_output.invoke(
            LLM, [UserPromptMessage(content="hi")], {"type": "object"}, stream=True
        )
    ),
    "embed": lambda s: s.model.text_embedding.invoke(
        TextEmbeddingModelConfig(**OF), ["a", "b"], EmbeddingInputType.DOCUMENT
    ),
    "embed_multimodal": lambda s: s.model.text_embedding.invoke_multimodal(
        MultiModalEmbeddingModelConfig(**OF, tenant_id="t"), documents(), EmbeddingInputType.QUERY
    ),
    "rerank": lambda s: s.model.rerank.invoke(
        RerankModelConfig(**OF, score_threshold=0.5, top_n=1), ["a", "b"], "q"
    ),
    "rerank_multimodal": lambda s: s.model.rerank.invoke_multimodal(
        MultiModalRerankModelConfig(**OF), documents()[0], documents()
    ),
    "tts": lambda s: [
        piece.hex() for piece in s.model.tts.invoke(TTSModelConfig(**OF, voice="ann"), "hello")
    ],
    "stt": lambda s: s.model.speech2text.invoke(Speech2TextModelConfig(**OF), io.BytesIO(b"\x00\xff")),
    "moderation": lambda s: s.model.moderation.invoke(ModerationModelConfig(**OF), "text"),
    "extractor": lambda s: s.workflow_node.parameter_extractor.invoke(
        [ParameterConfig(name="boat", type="string", description="d", required=True)], NODE, "q", "i"
    ),
    "classifier": lambda s: s.workflow_node.question_classifier.invoke(
        [ClassConfig(id="1", name="boats")], NODE, "q", "i"
    ),
    "tool": lambda s: list(s.tool.invoke(ToolProviderType.BUILT_IN, "p", "t", {"a": 1})),
    "tool_as": lambda s: list(s.tool.invoke(ToolProviderType.API, "p", "t", {}, "mine")),
    "upload": lambda s: next(
        s.file._backwards_invoke(  # all but the upload itself
            InvokeType.UploadFile,
            dict,
            {"filename": "a.svg", "mimetype": "image/svg+xml"},
        )
    ),
    "set": lambda s: s.storage.set("k", b"\x00\xff"),
    "get": lambda s: s.storage.get("k").hex(),
    "del": lambda s: s.storage.delete("k"),
    "exist": lambda s: s.storage.exist("k"),
    "chat": lambda s: list(s.app.chat.invoke("a", "q", {"x": 1}, "streaming", "c")),
    "chat_blocking": lambda s: s.app.chat.invoke("a", "q", {}, "blocking"),
    "workflow": lambda s: list(s.app.workflow.invoke("a", {"x": 1}, "streaming")),
    "summary": lambda s: s.model.summary.invoke("x" * 2000, "shorten"),
    "fetch": lambda s: FetchAppInvocation(s).get("a"),
}


def call(asked):
    writer = Writer()
    try:
        result = CALLS[asked["call"]](session(asked, writer))
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    (said,) = writer.said
    said["data"].pop("backwards_request_id")
    return {"said": said, "result": plain(result)}


def plain(value):
    return json.loads(json.dumps(value, default=as_json))


def as_json(value):
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)


# ---- actions ----------------------------------------------------------------------------------------


class Model:
    _invoke_error_mapping = {}

    def validate_credentials(self, model, credentials):
        if credentials.get("key") != "right":
            raise CredentialsValidateFailedError("the key is wrong")


class Llm(Model, LargeLanguageModel):
    def _invoke(self, model, credentials, prompt_messages, model_parameters, *_args, **_more):
        def pieces():
            text = "|".join(f"{m.role.value}:{m.get_text_content()}" for m in prompt_messages)
            message = AssistantPromptMessage(content=text)
            yield LLMResultChunk(model=model, delta=LLMResultChunkDelta(index=0, message=message))
            if model == "fails":
                raise InvokeRateLimitError("three a day")
            usage = LLMUsage.empty_usage()
            usage.prompt_tokens, usage.completion_tokens, usage.total_tokens = 3, 5, 8
            for price in type(usage).model_fields:
                if "price" in price:
                    setattr(usage, price, Decimal(0))
            call = AssistantPromptMessage.ToolCall(
                id="c1",
                type="function",
                function=AssistantPromptMessage.ToolCall.ToolCallFunction(name="b", arguments="{}"),
            )
            delta = LLMResultChunkDelta(
                index=1,
                message=AssistantPromptMessage(content="", tool_calls=[call]),
                usage=usage,
                finish_reason="stop",
            )
            yield LLMResultChunk(model=model, delta=delta)

        return pieces()

    def get_num_tokens(self, model, credentials, prompt_messages, tools=None):
        return len(prompt_messages) + len(tools or [])

    def supports_polling(self, model, credentials=None):
        return True

    def start_polling(self, **_fields):
        from dify_plugin.entities.model.llm import LLMPollingResult

        return LLMPollingResult(status="running", plugin_state={"id": 7})

    def check_polling(self, plugin_state, **_fields):
        from dify_plugin.entities.model.llm import LLMPollingResult

        return LLMPollingResult(status="failed", error=f"no {plugin_state['id']}")


def usage(tokens):
    zero = Decimal(0)
    return EmbeddingUsage(
        tokens=tokens, total_tokens=tokens, unit_price=zero, price_unit=zero, total_price=zero,
        currency="USD", latency=0.0,
    )


class Embedding(Model, TextEmbeddingModel):
    def _invoke(self, model, credentials, texts, user=None, input_type=None):
        vectors = [[float(len(text)), 0.5] for text in texts]
        return TextEmbeddingResult(model=model, embeddings=vectors, usage=usage(len(texts)))

    def invoke_multimodal(self, model, credentials, documents, user=None, input_type=None):
        vectors = [[float(len(document.content)), 0.5] for document in documents]
        return MultiModalEmbeddingResult(model=model, embeddings=vectors, usage=usage(2))

    def get_num_tokens(self, model, credentials, texts):
        return [len(text) for text in texts]


class Rerank(Model, RerankModel):
    def _invoke(self, model, credentials, query, docs, score_threshold=None, top_n=None, user=None):
        ranked = [RerankDocument(index=1, text=docs[1], score=0.75)]
        return RerankResult(model=model, docs=ranked)

    def invoke_multimodal(self, model, credentials, query, docs, **_more):
        ranked = [RerankDocument(index=0, text=docs[0].content, score=0.5)]
        return MultiModalRerankResult(model=model, docs=ranked)


class Tts(Model, TTSModel):
    def get_tts_model_mime_type(self, model, credentials):
        return "audio/wav" if model == "wav" else None

    def _invoke(self, model, tenant_id, credentials, content_text, voice, user=None):
        yield voice.encode()
        yield content_text.encode()

    def get_tts_model_voices(self, model, credentials, language=None):
        return [{"name": f"Ann {language}", "value": "ann"}]


class Stt(Model, Speech2TextModel):
    def _invoke(self, model, credentials, file, user=None):
        return file.read().hex()


class Judge(Model, ModerationModel):
    def _invoke(self, model, credentials, text, user=None):
        return "bad" in text


MODELS = {
    "llm": Llm, "text-embedding": Embedding, "rerank": Rerank, "tts": Tts, "speech2text": Stt,
    "moderation": Judge,
}  # fmt: skip


class Agent(AgentStrategy):
    def _invoke(self, parameters):
        yield self.create_text_message(f"drift: {parameters['query']}")
        log = self.create_log_message("think", {"a": 1})
        yield self.finish_log_message(log, data={"b": 2})


class Shelf(DatasourceProvider):
    def _validate_credentials(self, credentials):
        if credentials.get("key") != "right":
            raise ValueError("the key is wrong")


class Site(WebsiteCrawlDatasource):
    def _get_website_crawl(self, parameters):
        info = WebSiteInfo(status="processing", web_info_list=[], total=1, completed=0)
        yield self.create_crawl_message(info)
        page = WebSiteInfoDetail(source_url=parameters["url"], content="c", title="t", description="d")
        info = WebSiteInfo(status="completed", web_info_list=[page], total=1, completed=1)
        yield self.create_crawl_message(info)


class Pages(OnlineDocumentDatasource):
    def _get_pages(self, parameters):
        page = OnlineDocumentPage(page_id="p1", page_name="Log", type="page", last_edited_time="")
        info = OnlineDocumentInfo(
            workspace_id="w", workspace_name="Harbour", workspace_icon="", total=1, pages=[page]
        )
        return DatasourceGetPagesResponse(result=[info])

    def _get_content(self, page):
        yield self.create_variable_message("content", f"page {page.page_id} of {page.workspace_id}")


class Drive(OnlineDriveDatasource):
    def _browse_files(self, request):
        file = OnlineDriveFile(id="f1", name="chart.svg", size=5000, type="file")
        folder = OnlineDriveFile(id="f2", name=request.prefix or "", size=0, type="folder")
        bucket = OnlineDriveFileBucket(
            bucket=request.bucket,
            files=[file, folder],
            is_truncated=True,
            next_page_parameters={"from": request.max_keys},
        )
        return OnlineDriveBrowseFilesResponse(result=[bucket])

    def _download_file(self, request):
        yield self.create_blob_message(request.id.encode(), meta={"mime_type": "text/plain"})


class Bell:
    """Of triggers, all that the executor asks."""

    def dispatch_event(self, subscription, request):
        return EventDispatch(
            user_id=subscription.properties["id"],
            events=["arrived"],
            response=Response("ok", 200, content_type="text/plain"),
            payload=json.loads(request.data),
        )

    def on_event(self, request, parameters, payload):
        if parameters.get("ignore"):
            raise EventIgnoreError
        return Variables(variables={"boat": payload["boat"], "path": request.path})

    def validate_api_key(self, credentials):
        if credentials.get("key") != "right":
            raise ValueError("the key is wrong")

    def create_subscription(self, endpoint, parameters, credentials, credential_type):
        return Subscription(
            expires_at=7, endpoint=endpoint, parameters=parameters, properties={"id": "x"}
        )

    def delete_subscription(self, subscription, credentials, credential_type):
        return UnsubscribeResult(success=True, message=None)

    def refresh_subscription(self, subscription, credentials, credential_type):
        return Subscription(
            endpoint=subscription.endpoint, parameters={}, properties=subscription.properties
        )

    def fetch_parameter_options(self, parameter):
        return [ParameterOption(value="t1", label=I18nObject(en_US=parameter))]


class Login:
    def oauth_get_authorization_url(self, redirect_uri, system_credentials):
        return f"https://x/?id={system_credentials['id']}&to={redirect_uri}"

    def oauth_get_credentials(self, redirect_uri, system_credentials, request):
        return OAuthCredentials(
            metadata={"name": "Ann"}, credentials={"token": request.args["code"]}, expires_at=9
        )

    def oauth_refresh_credentials(self, redirect_uri, system_credentials, credentials):
        return OAuthCredentials(credentials={"token": credentials["token"] + "+"})


class Registration:
    def get_model_provider_instance(self, _provider):
        return SimpleNamespace(
            validate_provider_credentials=lambda c: Model().validate_credentials("", c)
        )

    def get_model_instance(self, _provider, model_type):
        return MODELS[model_type.value]([])

    def get_agent_strategy_cls(self, _provider, _strategy):
        return Agent

    def get_datasource_provider_cls(self, provider):
        return Shelf

    def get_website_crawl_datasource_cls(self, *_names):
        return Site

    def get_online_document_datasource_cls(self, *_names):
        return Pages

    def get_online_drive_datasource_cls(self, *_names):
        return Drive

    def get_supported_oauth_provider(self, **_names):
        return Login()

    def __getattr__(self, _name):  # all that is about triggers
        return lambda **_names: Bell()


ACTIONS = {
    "validate_provider_credentials": ("validate_model_provider_credentials", requests.ModelValidateProviderCredentialsRequest),
    "validate_model_credentials": ("validate_model_credentials", requests.ModelValidateModelCredentialsRequest),
    "invoke_llm": ("invoke_llm", requests.ModelInvokeLLMRequest),
    "start_polling": ("start_llm_polling", requests.ModelStartPollingRequest),
    "check_polling": ("check_llm_polling", requests.ModelCheckPollingRequest),
    "get_llm_num_tokens": ("get_llm_num_tokens", requests.ModelGetLLMNumTokens),
    "invoke_text_embedding": ("invoke_text_embedding", requests.ModelInvokeTextEmbeddingRequest),
    "invoke_multimodal_embedding": ("invoke_multimodal_embedding", requests.ModelInvokeMultimodalEmbeddingRequest),
    "get_text_embedding_num_tokens": ("get_text_embedding_num_tokens", requests.ModelGetTextEmbeddingNumTokens),
    "invoke_rerank": ("invoke_rerank", requests.ModelInvokeRerankRequest),
    "invoke_multimodal_rerank": ("invoke_multimodal_rerank", requests.ModelInvokeMultimodalRerankRequest),
    "invoke_tts": ("invoke_tts", requests.ModelInvokeTTSRequest),
    "get_tts_model_voices": ("get_tts_model_voices", requests.ModelGetTTSVoices),
    "invoke_speech2text": ("invoke_speech_to_text", requests.ModelInvokeSpeech2TextRequest),
    "invoke_moderation": ("invoke_moderation", requests.ModelInvokeModerationRequest),
    "get_ai_model_schemas": ("get_ai_model_schemas", requests.ModelGetAIModelSchemas),
    "invoke_agent_strategy": ("invoke_agent_strategy", requests.AgentInvokeRequest),
    "get_authorization_url": ("get_oauth_authorization_url", requests.OAuthGetAuthorizationUrlRequest),
    "get_credentials": ("get_oauth_credentials", requests.OAuthGetCredentialsRequest),
    "refresh_credentials": ("refresh_oauth_credentials", requests.OAuthRefreshCredentialsRequest),
    "validate_datasource_credentials": ("validate_datasource_credentials", requests.DatasourceValidateCredentialsRequest),
    "invoke_website_datasource_get_crawl": ("datasource_crawl_website", requests.DatasourceCrawlWebsiteRequest),
    "invoke_online_document_datasource_get_pages": ("datasource_get_pages", requests.DatasourceGetPagesRequest),
    "invoke_online_document_datasource_get_page_content": ("datasource_get_page_content", requests.DatasourceGetPageContentRequest),
    "invoke_online_drive_browse_files": ("datasource_online_drive_browse_files", requests.DatasourceOnlineDriveBrowseFilesRequest),
    "invoke_online_drive_download_file": ("datasource_online_drive_download_file", requests.DatasourceOnlineDriveDownloadFileRequest),
    "invoke_trigger_event": ("invoke_trigger_event", requests.TriggerInvokeEventRequest),
    "validate_trigger_credentials": ("validate_trigger_provider_credentials", requests.TriggerValidateProviderCredentialsRequest),
    "dispatch_trigger_event": ("dispatch_trigger_event", requests.TriggerDispatchEventRequest),
    "subscribe_trigger": ("subscribe_trigger", requests.TriggerSubscribeRequest),
    "unsubscribe_trigger": ("unsubscribe_trigger", requests.TriggerUnsubscribeRequest),
    "refresh_trigger": ("refresh_trigger", requests.TriggerRefreshRequest),
    "fetch_parameter_options": ("fetch_parameter_options", requests.DynamicParameterFetchParameterOptionsRequest),
}  # fmt: skip

EXECUTOR = PluginExecutor(DifyPluginEnv(), Registration())


def action(data):
    """As the SDK's server does with a request."""
    method, kind = ACTIONS[data["action"]]
    writer = Writer()
    try:
        response = getattr(EXECUTOR, method)(session({}, writer), kind(**data))
        pieces = response if hasattr(response, "__next__") else [response]
        for piece in pieces:
            writer.session_message("s", writer.stream_object(data=piece))
    except Exception as error:
        told = {"error_type": type(error).__name__, "message": str(error)}
        writer.session_message("s", writer.stream_error_object(data=told))
    return writer.said


for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps(action(asked["action"]) if "action" in asked else call(asked)), flush=True)
