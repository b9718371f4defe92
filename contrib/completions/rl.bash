# bash completion for rl: copy to ~/.local/share/bash-completion/completions/rl
# The script itself comes from rl, so that it always fits the rl that is installed.
source <(rl completion bash)
