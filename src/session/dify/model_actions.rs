//! Models of a plugin's own.

use std::sync::Arc;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::action::{ActionRequest, ErrorType};
use super::model::{
    EmbeddingInput, Embeddings, LlmAsk, ModelRequest, MultimodalContent, Ranking, Voice,
};
use super::plugin::Plugin;
use super::providers::{answers, nested, unsupported};
use crate::session::SessionError;

/// What a provider of models does. What it does not implement is answered with an error.
///
/// Credentials are the request's, by [`ActionRequest::credential`].
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{
///     ActionRequest, LlmAsk, LlmChunk, LlmUsage, Manifest, ModelActions, ModelProvider, Plugin,
/// };
///
/// struct Tidal;
///
/// impl ModelActions for Tidal {
///     fn validate_provider_credentials(&self, request: &ActionRequest) -> anyhow::Result<()> {
///         Ok(drop(request.credential::<String>("api_key")?))
///     }
///
///     fn llm(&self, request: &ActionRequest, ask: LlmAsk) -> anyhow::Result<()> {
///         let said = ask.prompt_messages.last().map(|message| message.text()).unwrap_or_default();
///         let model = &ask.model.model;
///         request.answer(&LlmChunk::new(model, 0, format!("You said: {said}")))?;
///         request.answer(&LlmChunk::new(model, 1, "").last("stop", LlmUsage::tokens(3, 5)))?;
///         Ok(())
///     }
/// }
///
/// let provider = ModelProvider::new("tidal").predefined("tide-1", "llm");
/// Plugin::new(Manifest::new("quay", "tidal", "0.0.1")).models(provider, Tidal).check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[allow(unused_variables)]
pub trait ModelActions: Send + Sync + 'static {
    /// Checks credentials for all models: they are valid if it returns `Ok`.
    ///
    /// # Errors
    ///
    /// If they are not valid.
    fn validate_provider_credentials(&self, request: &ActionRequest) -> anyhow::Result<()> {
        unsupported("check credentials")
    }

    /// Checks credentials for one model: they are valid if it returns `Ok`.
    ///
    /// # Errors
    ///
    /// If they are not valid.
    fn validate_model_credentials(
        &self,
        request: &ActionRequest,
        model: ModelRequest,
    ) -> anyhow::Result<()> {
        unsupported("check credentials of single models")
    }

    /// Tells what a model is and how it may be set, as its YAML would; `null` if it does not know it.
    ///
    /// # Errors
    ///
    /// If it cannot be told.
    fn model_schema(&self, request: &ActionRequest, model: ModelRequest) -> anyhow::Result<Value> {
        Ok(Value::Null)
    }

    /// Has a language model answer, in [`LlmChunk`](super::LlmChunk)s.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn llm(&self, request: &ActionRequest, ask: LlmAsk) -> anyhow::Result<()> {
        unsupported("have language models")
    }

    /// Begins an answer that is asked after later: `{"status", "plugin_state", "result", ..}`.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn start_polling(&self, request: &ActionRequest, ask: LlmAsk) -> anyhow::Result<Value> {
        unsupported("have language models that are polled")
    }

    /// Looks after an answer that was begun; what was kept is in `plugin_state`.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn check_polling(&self, request: &ActionRequest, ask: LlmAsk) -> anyhow::Result<Value> {
        unsupported("have language models that are polled")
    }

    /// Counts the tokens of what a language model would be asked.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn llm_tokens(&self, request: &ActionRequest, ask: LlmAsk) -> anyhow::Result<u64> {
        unsupported("count tokens")
    }

    /// Makes vectors of texts.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn embed(
        &self,
        request: &ActionRequest,
        model: ModelRequest,
        texts: Vec<String>,
        input: EmbeddingInput,
    ) -> anyhow::Result<Embeddings> {
        unsupported("have models for vectors")
    }

    /// Makes vectors of texts and images.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn embed_multimodal(
        &self,
        request: &ActionRequest,
        model: ModelRequest,
        documents: Vec<MultimodalContent>,
        input: EmbeddingInput,
    ) -> anyhow::Result<Embeddings> {
        unsupported("have models for vectors of images")
    }

    /// Counts the tokens of each text.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn embedding_tokens(
        &self,
        request: &ActionRequest,
        model: ModelRequest,
        texts: Vec<String>,
    ) -> anyhow::Result<Vec<u64>> {
        unsupported("count tokens")
    }

    /// Puts documents in order. `score_threshold` and `top_n` are among the request's fields.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn rerank(
        &self,
        request: &ActionRequest,
        model: ModelRequest,
        query: String,
        documents: Vec<String>,
    ) -> anyhow::Result<Ranking> {
        unsupported("have models for rankings")
    }

    /// Puts documents with images in order.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn rerank_multimodal(
        &self,
        request: &ActionRequest,
        model: ModelRequest,
        query: MultimodalContent,
        documents: Vec<MultimodalContent>,
    ) -> anyhow::Result<Ranking> {
        unsupported("have models for rankings of images")
    }

    /// Speaks a text; what is to be heard goes out by [`ActionRequest::audio`].
    ///
    /// # Errors
    ///
    /// If it fails.
    fn speak(
        &self,
        request: &ActionRequest,
        model: ModelRequest,
        voice: String,
        text: String,
    ) -> anyhow::Result<()> {
        unsupported("have models that speak")
    }

    /// Lists the voices that a model has for a language, or for all.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn voices(
        &self,
        request: &ActionRequest,
        model: ModelRequest,
        language: Option<String>,
    ) -> anyhow::Result<Vec<Voice>> {
        unsupported("have models that speak")
    }

    /// Writes down what is said in an audio file.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn transcribe(
        &self,
        request: &ActionRequest,
        model: ModelRequest,
        audio: Vec<u8>,
    ) -> anyhow::Result<String> {
        unsupported("have models that listen")
    }

    /// Says whether a text is not fit to be said.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn moderate(
        &self,
        request: &ActionRequest,
        model: ModelRequest,
        text: String,
    ) -> anyhow::Result<bool> {
        unsupported("have models that judge texts")
    }
}

impl ActionRequest {
    /// Answers with audio, as a model that speaks; in pieces if it is long.
    ///
    /// # Errors
    ///
    /// If the daemon is gone, or there is no room.
    pub fn audio(&self, bytes: &[u8]) -> Result<(), SessionError> {
        self.sound(bytes, json!({}))
    }

    /// Answers with audio of this type: `audio/wav`, `audio/mpeg`.
    ///
    /// # Errors
    ///
    /// As [`audio`](Self::audio).
    pub fn audio_of(&self, mime_type: &str, bytes: &[u8]) -> Result<(), SessionError> {
        self.sound(bytes, json!({"mime_type": mime_type}))
    }

    fn sound(&self, bytes: &[u8], mut said: Value) -> Result<(), SessionError> {
        let mut pieces = bytes.chunks(256 << 10);
        pieces.try_for_each(|piece| {
            said["result"] = HEXLOWER_PERMISSIVE.encode(piece).into();
            self.answer(&said)
        })
    }
}

fn model(request: &ActionRequest) -> anyhow::Result<ModelRequest> {
    Ok(request.parse()?)
}

fn ask<T: DeserializeOwned>(request: &ActionRequest, key: &str) -> anyhow::Result<T> {
    nested(request, key)
}

fn input(request: &ActionRequest) -> EmbeddingInput {
    nested(request, "input_type").unwrap_or_default()
}

impl Plugin {
    /// Adds models: their declaration, by [`ModelProvider`](super::ModelProvider) or as the SDK's YAML
    /// has it, and what they do.
    ///
    /// # Examples
    ///
    /// As at [`ModelActions`].
    pub fn models(
        self,
        provider: impl Into<super::ModelProvider>,
        actions: impl ModelActions,
    ) -> Self {
        let declared = provider.into().0;
        let name = declared["provider"].as_str().unwrap_or_default().to_owned();
        let of = [("provider", &*name)];
        let mut plugin = self.declare("model", declared);
        let all = Arc::new(actions);
        let mut add = |action: &'static str, ordinary, handler| {
            plugin.acts.add(format!("model.{action}"), &of, ordinary, handler);
        };
        /// The action, how it is answered, and by what.
        macro_rules! action {
            ($action:literal, $own:ident, $request:ident, $answer:expr) => {
                action!($action, ErrorType::Exception, $own, $request, $answer)
            };
            ($action:literal, $ordinary:expr, $own:ident, $request:ident, $answer:expr) => {{
                let $own = Arc::clone(&all);
                add($action, $ordinary, answers(move |$request: &mut ActionRequest| Ok($answer)));
            }};
        }
        let invalid = || ErrorType::CredentialsValidate;
        action!("validate_provider_credentials", invalid(), own, request, {
            own.validate_provider_credentials(request)?;
            json!({"result": true, "credentials": request.fields()["credentials"]})
        });
        action!("validate_model_credentials", invalid(), own, request, {
            own.validate_model_credentials(request, model(request)?)?;
            json!({"result": true, "credentials": request.fields()["credentials"]})
        });
        action!("get_ai_model_schemas", own, request, {
            json!({"model_schema": own.model_schema(request, model(request)?)?})
        });
        action!("start_polling", own, request, own.start_polling(request, request.parse()?)?);
        action!("check_polling", own, request, own.check_polling(request, request.parse()?)?);
        action!("get_llm_num_tokens", own, request, {
            json!({"num_tokens": own.llm_tokens(request, request.parse()?)?})
        });
        action!("invoke_text_embedding", own, request, {
            own.embed(request, model(request)?, ask(request, "texts")?, input(request))?
        });
        action!("invoke_multimodal_embedding", own, request, {
            let documents = ask(request, "documents")?;
            own.embed_multimodal(request, model(request)?, documents, input(request))?
        });
        action!("get_text_embedding_num_tokens", own, request, {
            let counts = own.embedding_tokens(request, model(request)?, ask(request, "texts")?)?;
            json!({"num_tokens": counts})
        });
        action!("invoke_rerank", own, request, {
            let (query, docs) = (ask(request, "query")?, ask(request, "docs")?);
            own.rerank(request, model(request)?, query, docs)?
        });
        action!("invoke_multimodal_rerank", own, request, {
            let (query, docs) = (ask(request, "query")?, ask(request, "docs")?);
            own.rerank_multimodal(request, model(request)?, query, docs)?
        });
        action!("get_tts_model_voices", own, request, {
            let language = ask(request, "language")?;
            json!({"voices": own.voices(request, model(request)?, language)?})
        });
        action!("invoke_speech2text", own, request, {
            let hex: String = ask(request, "file")?;
            let audio = HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
            let audio = audio.map_err(|_| anyhow::anyhow!("`file` is not in hexadecimal"))?;
            json!({"result": own.transcribe(request, model(request)?, audio)?})
        });
        action!("invoke_moderation", own, request, {
            json!({"result": own.moderate(request, model(request)?, ask(request, "text")?)?})
        });
        // These answer by themselves, in pieces.
        let own = Arc::clone(&all);
        let llm = Box::new(move |request: &mut ActionRequest| own.llm(request, request.parse()?));
        add("invoke_llm", ErrorType::Exception, llm);
        let speak = Box::new(move |request: &mut ActionRequest| {
            let (voice, text) = (ask(request, "voice")?, ask(request, "content_text")?);
            all.speak(request, model(request)?, voice, text)
        });
        add("invoke_tts", ErrorType::Exception, speak);
        plugin
    }
}
