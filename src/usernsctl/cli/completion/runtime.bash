# Sets the caller's variables verbs, flags and operands to the completions of a verb; the argument
# $1 is the words that select the verb. Fails if there is no such verb.
#   flags     --name, --name=KIND for an option with a value, --name?KIND if the value is optional
#   operands  the KIND of each operand; KIND* for any number of operands
# A KIND that begins with : is a list of words, separated by |.
@name@_table() {
    verbs=() flags=() operands=()
    case $1 in
@table@
        *) return 1 ;;
    esac
}

# Sets the caller's variable kind to the kind of the value of option $1. Fails if the option does not
# exist or takes no value; with $2 = apart, also if the value can't be a separate word.
@name@_kind() {
    local flag
    for flag in "${flags[@]}"; do
        if [[ ${flag%%[=?]*} == "$1" && $flag == *[=?]* && ($2 != apart || $flag != *\?*) ]]; then
            kind=${flag#*[=?]}
            return 0
        fi
    done
    return 1
}

# Offers the words in $2 and later arguments that begin with $1, the word that is being typed.
@name@_words() {
    local one
    for one in "${@:2}"; do
        [[ $one == "$1"* ]] && COMPREPLY+=("$prefix$one")
    done
}

@name@_offer() {
    local -a found=()
    local one LC_ALL
    case $1 in
        :*)
            IFS='|' read -r -a found <<<"${1#:}"
            @name@_words "$2" "${found[@]}"
            ;;
        files) compopt -o default ;;
        directories) compopt -o dirnames ;;
        variables)
            mapfile -t found < <(compgen -A export)
            @name@_words "$2" "${found[@]}"
            ;;
        command)
            compopt -o filenames -o default
            mapfile -t COMPREPLY < <(compgen -A command -- "$2")
            ;;
        namespaces | templates | causes)
            # A file may be given in place of a cause.
            [[ $1 != causes ]] || { compopt -o filenames && mapfile -t COMPREPLY < <(compgen -f -- "$2"); }
            LC_ALL=C
            # Drop lines that are not names, whichever program prints them.
            while IFS= read -r one; do
                [[ $one =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$ ]] && found+=("$one")
            done < <(command usernsctl completion --names "$1" 2>/dev/null </dev/null)
            @name@_words "$2" "${found[@]}"
            ;;
    esac
}

@name@() {
    local line=${COMP_LINE:0:COMP_POINT} piece
    local -a words=() places=() verbs flags operands
    local -i i
    COMPREPLY=()
    # Join words that bash has split at = and :, so that only blanks separate words.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        if [[ $i -eq 0 || $line == [[:blank:]]* ]]; then
            words+=("") places+=("$i")
            line=${line#"${line%%[![:blank:]]*}"}
        fi
        piece=${COMP_WORDS[i]}
        ((i < COMP_CWORD)) || piece=$line
        words[${#words[@]} - 1]+=$piece
        line=${line#"$piece"}
    done

    local path=${words[0]##*/} word kind takes="" ended="" prefix=""
    local -i at=0 last=${#words[@]}-1
    @name@_table "$path" || return
    for ((i = 1; i < last; i++)); do
        word=${words[i]}
        if [[ $takes ]]; then
            takes=""
        elif [[ ! $ended && $word == -- ]]; then
            ended=yes
        elif [[ ! $ended && $word == -?* ]]; then
            @name@_kind "$word" apart && takes=yes
        elif ((${#verbs[@]})); then
            path+=" $word"
            @name@_table "$path" || return
        elif [[ ${operands[at]-} == command ]]; then
            @name@_rest "${places[i]}"
            return
        elif [[ ${operands[at]-} != *\* ]]; then
            at+=1
        fi
    done

    word=${words[last]}
    if [[ $takes ]]; then
        @name@_offer "$kind" "$word"
    elif [[ ! $ended && $word == --*=* ]]; then
        # If = separates words, as by default, bash replaces only the part after =.
        [[ $COMP_WORDBREAKS == *=* ]] || prefix=${word%%=*}=
        @name@_kind "${word%%=*}" && @name@_offer "$kind" "${word#*=}"
    elif [[ ! $ended && $word == -* ]]; then
        @name@_words "$word" "${flags[@]%%[=?]*}"
    elif ((${#verbs[@]})); then
        @name@_words "$word" "${verbs[@]}"
    elif [[ ${operands[at]-} == command ]]; then
        @name@_rest "${places[last]}"
    else
        kind=${operands[at]-}
        @name@_offer "${kind%\*}" "$word"
    fi
}

# Completes the rest of the line, from word number $1 on, as a command line of its own.
@name@_rest() {
    if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$1"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$1"
    elif (($1 == COMP_CWORD)); then
        @name@_offer command "${COMP_WORDS[COMP_CWORD]}"
    else
        compopt -o default
    fi
}

complete -F @name@ @programs@
