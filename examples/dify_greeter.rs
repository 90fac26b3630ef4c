//! The plugin of the guide, `docs/dify.md`: a tool that greets people by a model of Dify's.

use sessile::session::dify::{
    Environment, LlmRequest, Manifest, ModelConfig, Parameter, Permission, Plugin, PromptMessage,
    Setting, Tool, ToolMessage, ToolProvider,
};

fn main() -> anyhow::Result<()> {
    let manifest = Manifest::new("me", "greeter", "0.0.1")
        .label("Greeter")
        .description("Greets people by a model")
        .tag("utilities")
        .permissions([Permission::Models, Permission::Storage(1 << 20)]);
    let provider = ToolProvider::new("greeter")
        .description("Greets people")
        .credential(Setting::secret("api_key").label("API key").required());
    let tool = Tool::new("greet")
        .description("Greets somebody")
        .parameter(Parameter::string("name").required().description("Whom to greet"))
        .parameter(Parameter::model("model").scope("llm").required());
    Plugin::new(manifest)
        .tool_provider(provider)
        .validate_credentials("greeter", |request| {
            let key: String = request.credential("api_key")?;
            anyhow::ensure!(key.len() > 3, "the key is too short");
            Ok(())
        })
        .tool("greeter", tool, |request| {
            let name: String = request.parameter("name")?; // its error names the parameter
            let model: ModelConfig = request.parameter("model")?;
            let dify = request.dify();
            let ask = PromptMessage::user(format!("Greet {name} in one sentence."));
            for chunk in dify.llm(&LlmRequest::new(model).message(ask))? {
                request.send(ToolMessage::text(chunk?.text()))?;
            }
            dify.storage_set("last", name.as_bytes())?;
            request.send(ToolMessage::variable("greeted", name))?;
            Ok(())
        })
        .run(&Environment::from_process()?)?
        .wait()?;
    Ok(())
}
