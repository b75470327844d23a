"""llama.cpp's server on a free port, with the model in a file: llama.py GGUF NAME

It says on standard error where it listens, and ends with the process."""

import signal
import sys

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path, params.model_alias = sys.argv[1], {sys.argv[2]}
params.hostnames, params.port = ["127.0.0.1"], 0
params.n_ctx, params.n_parallel = 8192, 2
params.endpoint_metrics = True
# A model that was only trained to go on with a text has no form of a conversation.
params.use_jinja = True
params.chat_template = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
server = xllamacpp.Server(params)
signal.pause()
